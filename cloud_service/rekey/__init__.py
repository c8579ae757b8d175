"""Change of a gallery's key in place: the steps in the record, and the service that runs them in the background."""
