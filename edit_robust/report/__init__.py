"""What a run came to: one sentence, one table for the terminal, one page of HTML."""

from edit_robust.report.html import write_report
from edit_robust.report.sentence import verdict
from edit_robust.report.table import summary_table

__all__ = ["summary_table", "verdict", "write_report"]
