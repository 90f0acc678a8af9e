"""Everything that is wrong with a graph, found before any work starts."""
