"""Response + sample -> components -> reward -> advantage. Imports no engine."""
