"""Cells of the CSV files that people open: a spreadsheet runs a cell that begins like a formula.

A class folder `=HYPERLINK(...)` of a stranger must not run on the machine of whoever opens the predictions. The rule is
that of https://owasp.org/www-community/attacks/CSV_Injection. Graftline's own readers use `unescape`.
"""

import re

_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # the last four are the full-width forms


def escape(cell: str) -> str:
    """Return the cell with an apostrophe before a formula's first character; spreadsheets then show it as text."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unescape(cell: str) -> str:
    """Return the cell that `escape` got."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
