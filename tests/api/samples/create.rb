require 'uri'
require 'net/http'
require 'openssl'
url = URI("https://yourapp.metered.live/api/v1/room")
http = Net::HTTP.new(url.host, url.port)
http.use_ssl = true
request = Net::HTTP::Post.new(url)
request["Accept"] = 'application/json'
request["Content-Type"] = 'application/json'
request.body = "{\"privacy\":\"public\",\"ejectAtRoomExp\":false,\"enableRequestToJoin\":true,\"enableChat\":true,\"enableScreenSharing\":true,\"joinVideoOn\":false,\"joinAudioOn\":false,\"enableRecording\":false,\"audioOnlyRoom\":false}"
response = http.request(request)
puts response.read_body
