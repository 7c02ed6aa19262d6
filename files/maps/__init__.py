"""Maps and masks as commands take them in: their units, sizes and grids."""
