"""What our hot paths are measured against, each as fast as it can be made to run here."""
