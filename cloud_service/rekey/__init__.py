"""Change of a gallery's key in place: its steps in the record, and the service for them."""
