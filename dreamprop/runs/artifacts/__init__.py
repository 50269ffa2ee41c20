"""What a run shows of its result: pictures, meshes, measures of quality and the report."""
