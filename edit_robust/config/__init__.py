"""From a command line to an experiment: the only room that knows Hydra and OmegaConf."""
