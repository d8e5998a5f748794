#!/usr/bin/env python
"""Names the files of d2_starter/ that were edited, removed or added: see --help"""

from d2_starter.files.integrity import main

if __name__ == "__main__":
    main()
