"""How right an engine is: figures of accuracy on a data set, as the field defines them."""
