"""The reference, generated from declarations and docstrings when the site is built, so that nothing is written twice."""
