"""From a feature window to an answer: the logic that the Serve deployments are shells of."""
