#!/usr/bin/env python
"""Says where early stopping would have ended a training that is over: see --help"""

from d2_starter.evaluation.rehearse import main

if __name__ == "__main__":
    main()
