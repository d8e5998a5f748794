"""Makes files of a trained model that others can use: TorchScript, ONNX, packed runs."""
