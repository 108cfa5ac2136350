"""Pages for people who do not write code: files in, a job, a zip out. One process serves all visitors.

`jobs` hold a visitor's work without a browser, `pages` shows it, `server` serves it, `visits` keeps visitors apart.
"""
