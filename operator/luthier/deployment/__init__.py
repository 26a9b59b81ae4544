"""ModelDeployment: revisions, traffic, analysis, rollback."""
