"""The paper's protocol as one job that can be stopped and goes on."""
