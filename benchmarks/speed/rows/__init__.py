"""One module a row of the table: `measure(workplace)` returns a `Row`."""
