#!/usr/bin/env python
"""Sets the project up for a dataset: uv run tools/set_dataset.py path/to/data [--add]"""

from d2_starter.formats.project import main

if __name__ == "__main__":
    main()
