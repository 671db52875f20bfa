# SPDX-License-Identifier: Apache-2.0
"""`python -m rookery.cli`: the command line, where the script `rookery` is not on the path."""

from rookery.cli.main import main

if __name__ == "__main__":
    main()
