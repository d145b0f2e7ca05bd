"""File signatures: size and time of change, or none."""

from __future__ import annotations

import os
from pathlib import Path

from data_loader.records.file_signatures import NO_SIGNATURE, signatures_of


def test_signatures(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    assert signatures_of([str(file)]) == {str(file): NO_SIGNATURE}
    file.write_bytes(b"12345")
    os.utime(file, ns=(1, 123_456_789_012_345_678))
    (tmp_path / "link").symlink_to(file)
    signature = (5, 123_456_789_012_345_678)
    expected = {str(file): signature, str(tmp_path / "link"): signature}
    expected |= dict.fromkeys(("a\0b", str(file / "below"), ""), NO_SIGNATURE)
    assert signatures_of(expected) == expected
