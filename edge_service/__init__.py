"""The edge: sees pictures, and sends nothing but protected templates.

It never imports the cloud; what both agree on is in ``shared``.
"""

from shared.security.process_limits import limit_native_threads

limit_native_threads()  # before numpy is imported
