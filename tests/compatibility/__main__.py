"""Writes the table of docs/compatibility.md anew."""

from tests.compatibility.table import PAGE, generated

if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
