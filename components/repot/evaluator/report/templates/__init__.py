"""The Jinja templates of the report and the model card; `repot.pages` has their filters."""
