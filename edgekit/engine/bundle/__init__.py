"""The folder an engine is stored in: manifest, hashes and atomic writing."""
