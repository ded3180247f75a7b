"""The words of the domain: ids, states, labels, selectors, errors. Standard library only."""
