"""Writes the tables of docs/transparency.md anew."""

from tests.transparency.page import PAGE, generated

if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
