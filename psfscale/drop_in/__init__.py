"""What commands do on plain arrays, without a survey."""
