"""One self-contained HTML page about runs: `page.write_page`."""
