"""The local viewer: a receiver and store of spans, and the page that shows them."""
