"""One self-contained HTML page of a run: `build.page(run)`."""
