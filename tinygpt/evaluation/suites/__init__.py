"""The evaluation suites that users name in `suite=`."""
