# SPDX-License-Identifier: Apache-2.0
"""What our HTTP services share: a server with limits, the reading of requests, and a log of events.

Runs: in the host and in the Steward. Trusted by: nobody; it judges nothing and knows neither service.
"""
