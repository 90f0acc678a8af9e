"""A saved file as data: reading it, what its node classes declare, conversion to the API form, drawing."""
