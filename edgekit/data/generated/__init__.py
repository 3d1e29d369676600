"""Built-in data sets, generated or installed with a package, so that nothing is downloaded."""
