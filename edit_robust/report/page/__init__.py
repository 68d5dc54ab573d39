"""The parts of the HTML page: what each shows is worked out here, how it looks stands in the templates beside it.

`html.write_report` puts them together. All are pure functions of what the reader gives; none loads torch.
"""
