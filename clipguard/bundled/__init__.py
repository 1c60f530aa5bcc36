"""What comes with clipguard: small CLIPs, drawings, class names."""
