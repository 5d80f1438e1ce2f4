"""What agents are told about the market: three values of one upstream, cached, with a breaker before each."""
