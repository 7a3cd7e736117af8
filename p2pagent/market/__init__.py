"""Who serves whom, and for how much. Pure, in integers."""
