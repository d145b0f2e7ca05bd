"""The report of a run: one HTML file, report.html, that needs nothing else."""

from experiment.report.pictures import draw_pictures
from experiment.report.report import REPORT_FILE, write_report

__all__ = ["REPORT_FILE", "draw_pictures", "write_report"]
