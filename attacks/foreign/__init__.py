"""Other libraries' attacks under our verdict: one file a library, imported only when an attack of it is named."""
