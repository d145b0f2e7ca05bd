"""What is on disk and what is known of it: sources give records, label fixes correct them, a label table holds them."""

from data_loader.records.label_table import LabelTable
from data_loader.records.reading import read_records
from data_loader.records.records import Record

__all__ = ["LabelTable", "Record", "read_records"]
