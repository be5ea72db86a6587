"""``python -m wwwmarket`` is ``wwwmarket``."""

from wwwmarket.cli import main

if __name__ == "__main__":
    main()
