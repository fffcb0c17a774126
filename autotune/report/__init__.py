"""What a person looks at: the dashboard and drawings of the front."""
