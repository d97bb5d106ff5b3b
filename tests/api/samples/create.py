import requests
url = "https://yourapp.metered.live/api/v1/room"
payload = {
"privacy": "public",
"ejectAtRoomExp": False,
"enableRequestToJoin": True,
"enableChat": True,
"enableScreenSharing": True,
"joinVideoOn": False,
"joinAudioOn": False,
"recordRoom": False,
"audioOnlyRoom": False
}
headers = {
"Accept": "application/json",
"Content-Type": "application/json"
}
response = requests.request("POST", url, json=payload, headers=headers)
print(response.text)
