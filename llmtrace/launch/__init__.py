"""The set-up of a whole program in one step: where its spans go, and exporters that never hold it up."""
