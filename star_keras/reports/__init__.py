"""What `star-keras evaluate` and `star-keras report` do: load, measure, tell."""

from star_keras.reports.measuring import Document, measure
from star_keras.reports.page import page
from star_keras.reports.text import markdown, plain
from star_keras.reports.writing import check_extra, write_json, write_report

__all__ = ["Document", "check_extra", "markdown", "measure", "page", "plain", "write_json", "write_report"]
