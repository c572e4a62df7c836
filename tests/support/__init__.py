"""What the tests share: stand-ins, builders, comparisons. Tests import it and never each other."""
