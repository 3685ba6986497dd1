"""What is read of a run's stores without a cluster: state, arrays, tables, whether all is whole."""
