"""The simulated head: anatomy, susceptibility tensor, and its gradient-echo scans."""
