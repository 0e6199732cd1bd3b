"""Commands about deployments, and talking to one."""
