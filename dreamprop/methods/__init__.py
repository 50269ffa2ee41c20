"""Published methods as processes: a scene and a guidance."""
