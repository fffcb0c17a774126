"""study.yaml and what it means: `load_spec` turns the file into a frozen StudySpec or refuses it whole."""
